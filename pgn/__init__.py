"""PGN Serve: prompt generation networks for frozen vision transformers, trained and served.

Importing `pgn` loads neither torch nor fastapi; the method lives in `pgn.method`, the HTTP door in `pgn.gateway`.
"""

__version__ = "0.1.0"
