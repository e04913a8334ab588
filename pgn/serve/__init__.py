"""Processes, well kept: `pgn serve` is TorchServe and the gateway as two children, `pgn torchserve` the first alone."""

from pgn.serve.supervisor import serve, serve_stages

__all__ = ["serve", "serve_stages"]
