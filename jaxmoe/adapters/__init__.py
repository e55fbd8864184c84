"""Reading and writing adapter folders, one file per format."""
