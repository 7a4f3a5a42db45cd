"""What `obdbench new-method` writes, with the method's name left open."""
