"""DINOv2 with registers: converter, reference forward and golden data of one family."""
