"""What Keras' fit is given and does: data, loss, checks, callbacks."""
