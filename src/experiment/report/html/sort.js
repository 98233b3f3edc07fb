// The headings of tables of class `sortable` become buttons that sort them.
(() => {
  'use strict';
  const text = (row, column) => {
    const cell = row.cells[column];
    const own = cell?.dataset.value ?? cell?.textContent ?? '';
    return own.trim() === '–' ? '' : own.trim();
  };
  const number = (text) => parseFloat(text.replaceAll('−', '-').replaceAll(',', ''));

  // Compares two cells; what is missing comes last in both directions.
  const compare = (a, b, byNumber, direction) => {
    if (a === '' || b === '') return (a === '') - (b === '');
    const order = byNumber ? number(a) - number(b) : a.localeCompare(b, undefined, { numeric: true });
    return direction * order;
  };

  const sort = (table, column) => {
    const heading = table.tHead.rows[0].cells[column];
    const rows = [...table.tBodies[0].rows];
    const texts = rows.map((row) => text(row, column)).filter((found) => found !== '');
    const byNumber = texts.length > 0 && texts.every((found) => Number.isFinite(number(found)));
    // Large numbers and early letters first; the other way round next time.
    const before = heading.ariaSort;
    const rises = before === 'none' ? !byNumber : before === 'descending';
    for (const other of table.tHead.rows[0].cells) other.ariaSort = 'none';
    heading.ariaSort = rises ? 'ascending' : 'descending';
    const direction = rises ? 1 : -1;
    rows.sort((a, b) => compare(text(a, column), text(b, column), byNumber, direction));
    table.tBodies[0].append(...rows);
  };

  for (const table of document.querySelectorAll('table.sortable')) {
    if (table.tBodies[0].rows.length < 2) continue;
    table.classList.add('can-sort');
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...heading.childNodes);
      button.addEventListener('click', () => sort(table, column));
      heading.append(button);
      heading.ariaSort = 'none';
    });
  }
})();
