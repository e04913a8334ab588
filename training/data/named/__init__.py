"""The public sets of the papers by name: `catalogue.py` is the table, the other files read what lies on disk."""
