"""The hub over HTTP, in the Hugging Face Hub's protocol: `huggingface_hub`, `hf`, peft and transformers use it unchanged."""
