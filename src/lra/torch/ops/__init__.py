"""What replaces autograd's backward pass: ops, their autograd Functions, and error routing."""
