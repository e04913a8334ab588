"""Training: from labelled images and a frozen backbone to a bundle.

Read in this order: data (images and their splits), methods (what is trained), loop (how), evaluate (what came out).
"""
