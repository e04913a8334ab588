"""Looking into a trained bundle: where it errs, how sure it is, what its prompts do inside the frozen ViT.

Read in this order: subject (a bundle with its images), study (all its inner values, once), then one file a question.
"""
