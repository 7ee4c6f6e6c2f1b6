"""What must hold for every history and every input, searched by hypothesis and by replaying the example states."""
