"""Every config key, its checks, and what is built of them."""
