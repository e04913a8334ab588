"""No function nodes: the workflow is a plain chain. The workflow archiver stops with an error without such a file."""
