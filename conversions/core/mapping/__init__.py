"""Rules as data, and what a checkpoint's keys become by them."""
