'use strict';
document.documentElement.classList.add('scripted');

// Tables: a click sorts, the second one the other way round, the third one
// brings the first order back.
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener('click', () => {
      const first = heading.dataset.first;
      const second = first === 'ascending' ? 'descending' : 'ascending';
      const order = { [first]: second, [second]: '' }[heading.ariaSort ?? ''] ?? first;
      for (const other of headings) other.removeAttribute('aria-sort');
      if (order) heading.setAttribute('aria-sort', order);
      const rows = order ? [...original].sort(compare(column, order)) : original;
      body.append(...rows);
    });
  });
}

function compare(column, order) {
  const sign = order === 'ascending' ? 1 : -1;
  return (a, b) => {
    const [x, y] = [a, b].map((row) => row.cells[column]);
    if (column === 0) return sign * x.textContent.localeCompare(y.textContent, 'en', { numeric: true });
    const [p, q] = [x, y].map((cell) => Number(cell.dataset.value ?? NaN));
    // What has no number is last, whatever the order.
    if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q);
    return sign * (p - q);
  };
}

// Pictures: a button opens them large.
const dialog = document.getElementById('large');
if (dialog) {
  const samples = [...document.querySelectorAll('.sample')].map((sample) => [...sample.querySelectorAll('.picture img')]);
  const large = dialog.querySelector('img');
  let place = [0, 0];
  const show = (sample, index) => {
    const picture = samples[sample]?.[index];
    if (!picture) return;
    place = [sample, index];
    large.src = picture.src;
    large.alt = picture.alt;
    dialog.querySelector('.caption').textContent = picture.alt;
    fit();
  };
  const fit = () => {
    const { naturalWidth: w, naturalHeight: h } = samples[place[0]][place[1]];
    const scale = Math.min((innerWidth * 0.94 - 32) / w, (innerHeight * 0.94 - 110) / h);
    large.style.width = `${Math.floor(w * scale)}px`;
    large.style.height = `${Math.floor(h * scale)}px`;
  };
  samples.forEach((pictures, sample) => pictures.forEach((picture, index) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.setAttribute('aria-label', `Enlarge: ${picture.alt}`);
    picture.replaceWith(button);
    button.append(picture);
    button.addEventListener('click', () => {
      dialog.showModal();
      show(sample, index);
    });
  }));
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  dialog.addEventListener('keydown', (event) => {
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    show(place[0] + move[0], place[1] + move[1]);
  });
  for (const button of dialog.querySelectorAll('[data-move]')) {
    button.addEventListener('click', () => show(place[0], place[1] + Number(button.dataset.move)));
  }
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener('close', () => {
    samples[place[0]][place[1]].closest('button').focus({ preventScroll: false });
  });
  addEventListener('resize', () => dialog.open && fit());
}
