"""Labelled images: named sets, folders and tars, each with its training, validation and test images kept apart."""
