"""What `make k8s-check` runs: everything that can be said of the manifests without a cluster.

`combinations` says what is rendered, `render` renders it, `objects` reads it. `schemas` and `crds` know the API.
`rules` lists what we want (`rules_pods`, `rules_objects`), `cross` what the code has to say. `tools` runs the tools of
others, and `exceptions` says which of their findings stay, and why.
"""
