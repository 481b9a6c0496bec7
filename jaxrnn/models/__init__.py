"""Models made of cells: configuration in a frozen dataclass, parameters in a pytree."""
