"""A network without attention: a cell's expression through one or two hidden layers.

Shapes: B cells, T expressed genes of all of them, G genes, H hidden units.
"""

from torch import Tensor, nn

from trainables.networks.exact import exactly


class Mlp(nn.Module):
    """Logits [B, C] of log-normalised values; hidden layers are normalised per cell, with dropout after them."""

    cells_are_independent = True

    def __init__(self, num_genes: int, num_classes: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        widths = [num_genes, *hidden]
        self.num_genes = num_genes
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(dropout))
                for before, after in zip(widths, widths[1:], strict=False)
            )
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, genes: Tensor, cells: Tensor, values: Tensor, num_cells: int) -> Tensor:
        """genes, cells: int64 [T], which value stands where; values: float32 [T]."""
        x_BG = values.new_zeros(num_cells, self.num_genes)
        x_BG[cells, genes] = values
        return exactly(self.head, self.layers(x_BG))
