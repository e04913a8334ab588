"""A caller's library for the gateway's HTTP interface. Needs httpx alone: no torch, no fastapi, no numpy."""

from pgn.client.client import Client
from pgn.client.results import Change, Dataset, Prediction, Readiness, Result, Version

__all__ = ["Change", "Client", "Dataset", "Prediction", "Readiness", "Result", "Version"]
