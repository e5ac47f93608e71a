// Draws a worker's trend as a small line that starts at 0. The line is broken where no job ended.

const WIDTH = 88, HEIGHT = 22, POINTS = 30;

export function path(trend) {
  const most = Math.max(1, ...trend.filter((point) => point != null));
  let drawn = "";
  let isDown = false;
  trend.forEach((point, place) => {
    if (point == null) {
      isDown = false;
      return;
    }
    const x = ((place + POINTS - trend.length) / (POINTS - 1)) * (WIDTH - 4) + 2;
    const y = HEIGHT - 2 - (point / most) * (HEIGHT - 4);
    // A single point is drawn as a dot: a very short line with round ends.
    drawn += isDown ? `L${x.toFixed(1)} ${y.toFixed(1)}` : `M${x.toFixed(1)} ${y.toFixed(1)}h.01`;
    isDown = true;
  });
  return drawn;
}
