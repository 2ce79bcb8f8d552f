"""What FitServe does, without a wire, a path or a process."""
