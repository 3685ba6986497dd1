"""From the objects of a survey to its tables and maps: sums that merge exactly.

Everything is kept as whole numbers until the end, so the tallies of parts of a survey add to the
tally of the whole, bit for bit, in whatever order and however the survey was cut.
"""
