// A worker's course as a small line: from 0 up, broken where no job ended.

const WIDTH = 88, HEIGHT = 22, POINTS = 30;

export function path(course) {
  const most = Math.max(1, ...course.filter((point) => point != null));
  let drawn = "";
  let isDown = false;
  course.forEach((point, place) => {
    if (point == null) {
      isDown = false;
      return;
    }
    const x = ((place + POINTS - course.length) / (POINTS - 1)) * (WIDTH - 4) + 2;
    const y = HEIGHT - 2 - (point / most) * (HEIGHT - 4);
    // A point alone is a dot: a line of no length with round ends.
    drawn += isDown ? `L${x.toFixed(1)} ${y.toFixed(1)}` : `M${x.toFixed(1)} ${y.toFixed(1)}h.01`;
    isDown = true;
  });
  return drawn;
}
