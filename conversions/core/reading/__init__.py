"""Any source -> lazily mapped tensors, safely."""
