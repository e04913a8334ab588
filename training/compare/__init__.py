"""Methods beside each other on the same images: from one TOML file to trained cells, and from those to tables.

Read in this order: grid (which runs there are), runner (how they are run, stopped and gone on with), check (what keeps
them from being run at all), summary (what they say together), tables and plots (how it is shown), gather (all of that
into files).
"""
