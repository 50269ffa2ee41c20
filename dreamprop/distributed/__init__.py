"""Several processes that solve one chain: how they meet, what they send, and what each of them keeps."""
