"""A pretrained ViT -> an adapted one."""
