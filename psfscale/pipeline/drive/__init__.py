"""Which units remain, and the loop that hands them out until none does."""
