"""A square with obstacles on which an agent walks to a goal; it looks the same after a quarter turn."""

import gymnasium
import numpy as np

from star_keras.guards.arguments import is_whole

# Right, up, left, down: a quarter turn counter-clockwise makes each the next.
MOVES = ((1, 0), (0, 1), (-1, 0), (0, -1))
_QUARTER_TURN = np.array([(0, -1), (1, 0)])


class Gridworld(gymnasium.Env):
    """A walk to a goal among obstacles, the shorter the better.

    A state is `(x, y, goal x, goal y)`, counted from the middle and divided by half the side, so that it
    lies in [-1, 1]. Actions 0 to 3 move right, up, left and down by one cell; before an obstacle or the
    border the agent stays where it is. Each step costs 1, the last one, onto the goal, nothing. The first
    cell and the goal are drawn anew for each episode.

    Args:
        size: cells of a side, odd. Defaults to 7.
        obstacles: list of cells `(x, y)`, counted from the middle. Defaults to None: four walls of two cells,
            quarter turns of one another; with others, the task may have no symmetry.
        goals: list of cells in which goals lie. Defaults to None: all free ones.

    Raises:
        ValueError: if the size is even or smaller than 3, a cell is no free cell, or a free cell cannot be
            reached.

    Example:

    >>> world = Gridworld()
    >>> state, _ = world.reset(seed=0)
    >>> state.shape, world.action_space.n
    ((4,), np.int64(4))
    """

    def __init__(self, size=7, obstacles=None, goals=None):
        if not is_whole(size) or size < 3 or size % 2 == 0:
            raise ValueError(f"`size` must be an odd whole number of at least 3. Received: size={size!r}")
        self.size, self.half = size, size // 2
        every = [(x, y) for x in self._sides() for y in self._sides()]
        self.obstacles = _walls(self.half) if obstacles is None else _cells("obstacles", obstacles, every)
        self.free = [cell for cell in every if cell not in self.obstacles]
        self.goals = self.free if goals is None else _cells("goals", goals, self.free)
        self._check_paths()
        self.observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = self.goals[self.np_random.integers(len(self.goals))]
        starts = [cell for cell in self.free if cell != self.goal]
        self.cell = starts[self.np_random.integers(len(starts))]
        return self._state(), {}

    def step(self, action):
        self.cell = self._after(self.cell, action)
        arrived = self.cell == self.goal
        return self._state(), 0.0 if arrived else -1.0, arrived, False, {}

    def place(self, state):
        """Puts agent and goal where a state says they are."""
        x, y, goal_x, goal_y = (int(number) for number in np.round(np.asarray(state) * self.half))
        self.cell, self.goal = (x, y), (goal_x, goal_y)

    def distances(self, goal):
        """Steps of the shortest way to a goal, `{cell: steps}` for the cells it can be reached from."""
        steps, ahead = {tuple(goal): 0}, [tuple(goal)]
        for cell in ahead:
            for action in range(len(MOVES)):
                near = self._after(cell, action)
                if near not in steps:
                    steps[near] = steps[cell] + 1
                    ahead.append(near)
        return steps

    def _after(self, cell, action):
        x, y = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
        blocked = max(abs(x), abs(y)) > self.half or (x, y) in self.obstacles
        return cell if blocked else (x, y)

    def _state(self):
        return np.array((*self.cell, *self.goal), "float32") / np.float32(self.half)

    def _sides(self):
        return range(-self.half, self.half + 1)

    def _check_paths(self):
        reached = self.distances(self.free[0]) if self.free else {}
        lost = [cell for cell in self.free if cell not in reached]
        if lost or len(self.free) < 2:
            raise ValueError(
                "The agent needs two free cells at least, each of which can be reached from each. "
                f"Received: obstacles={sorted(self.obstacles)}, which leave {lost[:1] or self.free}"
            )


def _walls(half):
    """A wall of two cells on the right, and its quarter turns; none where there is no room."""
    walls = np.array([(1, 2), (2, 2)]) if half > 2 else np.empty((0, 2), int)
    turned = [walls @ np.linalg.matrix_power(_QUARTER_TURN, turns).T for turns in range(4)]
    return {(int(x), int(y)) for x, y in np.concatenate(turned)}


def _cells(name, cells, allowed):
    cells = [tuple(int(number) for number in cell) for cell in cells]
    wrong = [cell for cell in cells if cell not in allowed]
    if wrong or (name == "goals" and not cells):
        raise ValueError(
            f"`{name}` must be free cells (x, y), counted from the middle. Received: {wrong[:1] or cells}"
        )
    return cells if name == "goals" else set(cells)
