"""What a recipe needs: sizes, memory, time, steps."""
