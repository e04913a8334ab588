"""Looking into what was trained: where it errs, how sure it is, what a bundle's prompts do inside the frozen ViT.

Read in this order: subject (a bundle with its images), answers (also of methods that make no bundle), study (a bundle's
inner values, once), then one file a question.
"""
