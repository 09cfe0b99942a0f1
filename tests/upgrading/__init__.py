"""Records of releases, their comparison, environments, and what is made of them."""
