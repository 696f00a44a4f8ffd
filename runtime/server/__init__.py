"""The server: OpenAI's API, Hugging Face's Inference API, administration, metrics and pages over one Runtime."""
