document.querySelectorAll('.copy button').forEach((button) => {
  const label = button.textContent;
  button.addEventListener('click', async () => {
    const source = button.nextElementSibling;
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch (error) {
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand('copy');
    }
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = label; }, 1500);
  });
});
