"""One reference forward a family, in plain torch over the original key names."""
