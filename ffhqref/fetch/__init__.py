"""What `download` is made of; only it and `doctor` use it: sources, transfers, archives, the ledger."""
