"""What training methods share: classifiers, distillation terms, adapters."""
