"""The server's text-to-image model, its captioner and the public set that they make."""
