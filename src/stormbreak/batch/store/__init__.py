"""What a run keeps on disk: answers, failures, the journal of the run and what it cost."""
