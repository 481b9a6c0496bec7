"""Recurrent cells: one family a file, equations, step and derivative side by side."""
