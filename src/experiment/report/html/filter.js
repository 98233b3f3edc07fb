// The form `filters` hides what has another value in an attribute `data-<name of the choice>`, and
// what lacks the searched words in `data-find`.
(() => {
  'use strict';
  const form = document.querySelector('form.filters');
  if (!form) return;
  const choices = [...form.querySelectorAll('select')];
  const attributes = choices.map((choice) => `[data-${choice.name}]`);
  const marked = [...document.querySelectorAll([...attributes, '[data-find]'].join())];
  const rows = [...document.querySelectorAll('tr[data-line]')];
  const sections = [...document.querySelectorAll('section[data-student]')];
  const hide = (element, hidden) => element.toggleAttribute('hidden', hidden);

  const apply = () => {
    const words = form.elements.find.value.toLowerCase().split(/\s+/);
    const fits = ({ dataset }) =>
      choices.every(({ name, value }) => !value || !(name in dataset) || dataset[name] === value) &&
      (!('find' in dataset) || words.every((word) => dataset.find.toLowerCase().includes(word)));
    marked.forEach((element) => hide(element, !fits(element)));
    for (const section of sections) {
      const own = rows.filter((row) => section.contains(row));
      hide(section, !fits(section) || own.every((row) => row.hidden));
      for (const { dataset, hidden } of own) {
        const lines = section.querySelectorAll(`.figures [data-line="${dataset.line}"]`);
        lines.forEach((line) => hide(line, hidden));
      }
    }
    const seen = rows.filter((row) => !row.closest('[hidden]')).length;
    form.querySelector('output').textContent = `${seen} of ${rows.length} rows`;
  };

  form.hidden = false;
  form.addEventListener('input', apply);
  form.addEventListener('submit', (event) => event.preventDefault());
  // The fields have their first values only after this event.
  form.addEventListener('reset', () => setTimeout(apply));
  apply();
})();
