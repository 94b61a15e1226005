"""The evaluator: a trained model scored, published as a version, compared with the champion, and promoted."""
