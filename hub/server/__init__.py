"""The hub over HTTP, as the clients of the Hugging Face Hub speak to one."""
