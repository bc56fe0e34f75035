"""From gateway.yaml to a plan: text with positions, values, objects."""
