"""Files that callers name or strangers wrote: found beneath allowed roots, and read in bounds."""
