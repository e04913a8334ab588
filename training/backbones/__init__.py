"""How the embedded backbone was made: data, teacher cache, distillation, export and card."""
