"""From a frame on disk to alerts: what it costs, step by step, and two of the paper's figures."""
