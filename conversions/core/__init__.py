"""How conversion works: mapping, checkpoint, folder, checks, pipeline. No family is named here."""
