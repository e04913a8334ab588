"""One HTML page about runs and bundles, whole in one file: nothing in it is loaded from anywhere.

Read in this order: page (what it holds and in which order), standings (the table), chapter (what is said of one
bundle), figures and pictures (plots as SVG, images as data), page.html and style.css (how it looks).
"""
