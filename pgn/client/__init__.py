"""A caller's library for the gateway's HTTP interface. Needs httpx alone: no torch, no fastapi, no numpy."""

from pgn.client.client import Client
from pgn.client.results import Dataset, Prediction, Readiness, Result

__all__ = ["Client", "Dataset", "Prediction", "Readiness", "Result"]
