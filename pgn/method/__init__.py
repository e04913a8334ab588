"""The method: prompt generation networks in front of a frozen vision transformer, readable in an hour.

Read in this order: encoders, library, generator (image -> mixture -> prompts), backbone (where the prompts go in),
head (features -> class scores), predictor (all of them together). Then projection and inversion: prompts as pixels.
"""
