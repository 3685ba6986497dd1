"""The formats that can be ingested: each finds the CCDs of a file and reads one at a time."""
