from collections.abc import Sequence

import numpy as np

class Scanner:
    def __init__(self, nodes: Sequence[Sequence[tuple[bytes, int]]]) -> None: ...
    def scan(
        self,
        text: bytes,
        documents: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        kinds: np.ndarray,
        irregular: np.ndarray,
    ) -> np.ndarray: ...
    def cut(
        self,
        text: bytearray,
        documents: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        kinds: np.ndarray,
        irregular: np.ndarray,
    ) -> tuple[int, np.ndarray]: ...

def gathered(
    text: bytes, starts: np.ndarray, lengths: np.ndarray, kinds: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
